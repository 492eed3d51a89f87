"""Views of the machine and of a run: diagrams, the SVG, snapshots, timelines. They decide nothing."""
