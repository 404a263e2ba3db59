"""How much memory a model takes on a GPU, and what to change so that it fits.

Nothing is loaded. The model is opened on torch's meta device by the code that opens it for use,
and its calls run there: tensors have sizes, but take no memory.
"""
