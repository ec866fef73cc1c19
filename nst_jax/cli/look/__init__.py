"""What people look at: records, snapshots, animations, charts, contact sheets, the report page."""
