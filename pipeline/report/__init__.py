"""The report: tables, figures and pages made from the runs."""
