"""The routes of the model server, a module for each kind; what they do is in the modules beside this package."""
