"""What every room may use: errors, files written whole or not at all, types of arguments, interruptions."""
