"""Studies behind the design.

Do skip branches help (`evidence`), which features change little (`analyze`), what the default keeps (`default`), and
what it keeps in half precision (`half`).
"""
