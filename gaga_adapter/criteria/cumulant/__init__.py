"""The leading cumulants of the noised data, in closed form along the whole path."""
