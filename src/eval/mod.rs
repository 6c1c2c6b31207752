//! Evaluation: policies, budgets and tasks in, rows and a verdict out.

pub mod metric;
