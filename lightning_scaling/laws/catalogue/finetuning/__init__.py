"""Transfer: fine-tuning, distillation, and one loss from another."""
