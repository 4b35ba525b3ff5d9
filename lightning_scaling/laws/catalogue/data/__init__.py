"""Loss from what the data is: its mixture, its repeats, its quality."""
