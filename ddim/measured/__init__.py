"""The measured schedule and its coefficients: everything in ddim/ that needs a run of the model to begin
with."""
