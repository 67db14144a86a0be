"""Messy text files in, ids out, in constant memory; and tokenizers of any origin."""
