"""Faces: the public names of other caches, translated into this one's."""
