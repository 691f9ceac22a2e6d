"""The pages of the stream browser: each asks the store, and fills a template."""
