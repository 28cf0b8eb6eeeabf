"""report.html of a sweep, or of any runs that are compared: `page` writes it, the other files say what stands in it."""
