"""What a folder of the microscope holds, and the sample file that describes it."""
