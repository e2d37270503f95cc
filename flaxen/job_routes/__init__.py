"""The server's routes of what it stores: files, fine-tuning jobs and the models that they make."""
