"""Adapters of the forks of EDM and GeoLDM: each says what differs from its parent."""
