"""What this site needs beyond the renderer: hooks, notebooks, tables, diagrams."""
