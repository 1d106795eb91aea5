"""How molecules are judged: stability, validity, shape, distances from data."""
