"""What is measured of a trained machine. One file per question."""
