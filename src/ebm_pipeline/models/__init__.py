"""What a machine is: layers of units, couplings, conditionals, mean field, initial weights, and the file that holds them."""
