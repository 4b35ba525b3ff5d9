"""Small helpers shared by all rooms: number formatting, JSON and files, argument checks, robust statistics."""
