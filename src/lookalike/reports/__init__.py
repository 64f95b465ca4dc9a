"""What people read: the summary and the contact sheet. Reads results, computes none."""
