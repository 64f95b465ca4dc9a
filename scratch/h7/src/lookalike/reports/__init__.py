"""What people read: summary, report, plots, atlas, contact sheet. Reads results, computes none."""
