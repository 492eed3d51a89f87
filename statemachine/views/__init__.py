"""Views of the machine and of a run: diagrams, the SVG, snapshots, timelines. They only draw what was decided."""
