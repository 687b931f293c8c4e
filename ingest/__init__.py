"""From images as users have them to data sets that training reads: archives, layouts, statistics, decoded arrays."""
