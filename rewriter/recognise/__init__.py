"""From a softmax or an attention operator to a site in normal form."""
