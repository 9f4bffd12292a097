"""Traffic moves by percentage: shift, promote, roll back."""
