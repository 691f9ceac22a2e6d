"""A small shop: orders as events, coupons as rows, and the demand for products as a projection."""
