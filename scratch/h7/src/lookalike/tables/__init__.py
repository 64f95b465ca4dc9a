"""Every file format in and out: image tables, embedding tables, pair tables, atomic writes."""
