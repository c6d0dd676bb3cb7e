"""Federated averaging over Flower in which the server sees nothing but the sum."""
