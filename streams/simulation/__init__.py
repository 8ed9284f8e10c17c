"""A seeded world of users who answer what they are shown, and that knows the truth."""
