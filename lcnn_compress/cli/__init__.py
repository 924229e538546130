"""The command line. A command reads options, calls the library once, and renders the result."""
