"""What people read: text, charts, pages of HTML."""
