"""Guests that breathe: starting and ending them, their keeper, their monitor and their console."""
