"""The parts of the panel: header, and one class per tab."""
