"""Published models: what is where on the model hub, and how it gets here."""
