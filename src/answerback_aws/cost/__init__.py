"""What a month of the stack on AWS costs: measured counts of one answer, a workload, dated prices."""
