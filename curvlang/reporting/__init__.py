"""What an evaluation found, shown: terminal tables, figures, HTML and the run folder."""
