// The page imports every .js file of a pack when it opens. What only some graphs need is .mjs in drafting/,
// and comes with the first node that needs it.

// The host forbids browsers to keep .js files, and no others: under an address of its own for each opened page
// no module is of an older pack than the files beside it.
const OPENED = Date.now();

/** A promise of a module of drafting/. They load each other with it, too. */
export const load = (name) => import(`./drafting/${name}.mjs?${OPENED}`);
