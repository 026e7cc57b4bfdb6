"""Tables, figures and pages of results; sentences about them are written one stage earlier."""
