"""What people see: tables, progress, and what goes to standard error."""
