"""Troublesome files as clinics and programs write them, one small one per kind, built by code with what is right.

Each function takes a folder, writes one file (or folder) into it and returns its path. All show :data:`SCAN`, unless it
says otherwise, so the right answer is that scan: its voxels at its places, or a refusal by the true name of the fault.
"""
