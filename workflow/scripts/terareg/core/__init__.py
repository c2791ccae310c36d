"""What every stage builds on: errors, frames, exact arithmetic, and the terms of cost formulas."""
