"""Features for training and analysis, as they were known at each row's moment: read out of the datasets."""
