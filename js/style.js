// The pack's style sheet, beside this file.

const sheet = document.createElement("link");
sheet.rel = "stylesheet";
sheet.href = new URL("./ddim.css", import.meta.url).href;
document.head.append(sheet);
