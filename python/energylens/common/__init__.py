"""What every part of the package uses: opening files, and how much memory may be used."""
