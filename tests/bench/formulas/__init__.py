"""What scores of formulas cost, predicted and measured."""
