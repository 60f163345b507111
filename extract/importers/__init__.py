"""Features that others computed: readers of the forms in which the field publishes them."""
