"""The pocket recipe: codec, clips, student, teacher, distribution matching, export."""
