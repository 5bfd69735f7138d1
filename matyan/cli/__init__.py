"""The composition root: commands, flags, what is printed. The only room that reads settings and picks engines."""
