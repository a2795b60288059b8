"""Results for programs and people: results.json, tables, pages."""
