"""What every stage stands on: errors, frames, exact arithmetic, and the terms that costs are of."""
