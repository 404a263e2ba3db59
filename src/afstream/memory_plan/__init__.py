"""Memory foretold: what a model will take on a GPU, and what to change so that it fits.

Nothing is loaded for it. The model is opened on torch's meta device, by the code that opens it
for good, and its calls are made there: tensors have sizes, but no memory.
"""
